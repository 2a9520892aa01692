"""From rankings to a verdict, with TREC files and failures for people to read."""
