"""The report of a run: one page that is read from the run's folder alone, written during the run or afterwards.

`series` and `charts` read the metrics, `samples` the generated speech, `settings` the recipe, `data` the clip lists,
`verdict` the judge; `record` puts them together, `page` turns that into HTML. The page's own files are in `page/`.
Imports no torch.
"""
