"""From a sentence to phonemes: the symbol table and the front ends of five languages."""
