"""What a process holds of a table, told by digest: how worker and server let themselves be audited.

- `digests`: keys and digests of a holding, taken in small steps while the process goes on
- `routes`: the same over HTTP, read-only, below `/internal/holdings`
"""
