"""Reports: self-contained HTML pages of evaluations and of searches, headlines for papers, and the model card."""
