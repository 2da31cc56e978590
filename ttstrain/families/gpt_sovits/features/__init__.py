"""What the nets read of recordings and texts: HuBERT's and BERT's features, semantic tokens, a speaker's description."""
