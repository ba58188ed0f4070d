"""Batched delivery for Faust: the grain changes from one message to one slice of a partition, nothing else.

Faust hands an agent one message at a time: four tasks, three turns of the event loop and a future for each. Here a
consumer hands over what one fetch brought for a partition as a single `Slice`, a table writes each changed key once a
slice, and an offset is committed only when its slice was applied. Agents, assignment, changelogs, recovery and
shutdown stay Faust's own. See docs/adr/0001-batched-delivery.md.

- `slices`: a slice of a partition, and which offsets may be committed
- `consumer`: the Faust consumer and transport that deliver slices
- `partition`: the state of one partition of a table: values, changed keys, progress
- `stored_partition`, `stores`: the same with values on disk
- `table`: the Faust table on top of partitions
"""
