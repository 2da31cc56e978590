"""From long recordings to a data set: cut at pauses, words from a text or a recogniser, a page to review them."""
