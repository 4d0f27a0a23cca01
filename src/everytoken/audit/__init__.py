"""`python -m audit`: measures on the user's own data, model and step that every token counts once.

`subject.py` builds what is audited, `observe.py` watches a step and an evaluation on any number of
ranks, `checks_*.py` hold one function for each check, `report.py` runs them and tells the result.
"""
