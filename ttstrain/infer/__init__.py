"""A loaded model that speaks: samples, previews, voices."""
