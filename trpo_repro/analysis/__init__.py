"""Figures, intervals and variances; reads files, and never imports training."""
