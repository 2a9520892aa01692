"""What plan, store and stream share: the manifest, its index by language, keyed permutations, mined negatives."""
