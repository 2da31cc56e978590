"""Damaged and hostile input files for every reader, made from healthy ones, and a pool that reads them in safety.

    mutation.py     what a mutated file is, and edits of plain bytes
    trees.py        edits of JSON and YAML trees
    tables.py       edits of tables of text
    sounds.py       edits of wav, flac, ogg and mp3 files, by their chunks, blocks, pages and frames
    pickles.py      edits of pickles by opcodes, and of the zip round them
    tensors.py      edits of safetensors files
    columns.py      edits of Parquet and Arrow files
    archives.py     edits of tar files
    catalogue.py    the readers: healthy files, their edits, how each is read
    pool.py         forked processes with limits, that report what each file did to its reader

Case `n` of a reader is always the same file: the generator of random numbers is seeded with the reader's name and `n`.
"""
