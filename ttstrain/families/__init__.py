"""Families of models, one folder each.

A family is a sub-package that defines `FAMILY`. Importing it must not import torch; its classes are named by
`module:Class` references and loaded when a run needs them. `registry` finds the families.
"""
