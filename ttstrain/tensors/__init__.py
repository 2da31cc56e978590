"""Reading and writing files of tensors, from any program. Nothing in a file is ever executed."""
