"""What the nets read of recordings and texts: HuBERT's and BERT's features, tokens, a speaker's description."""
