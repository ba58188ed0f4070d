"""Auditing: everything that holds a table's state, beside what folding its source topic again gives."""
