"""Modules that plan, store and stream share: manifest, index by language, keyed permutations, mined negatives."""
