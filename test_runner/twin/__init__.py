"""The same random life on our compute and on a stock PostgreSQL (`make twin`).

A seed makes a schedule of SQL statements on several sessions (`schedule`, with `tables`, `queries`, `writes`, `transactions`). Each statement runs on both
servers (`pair`); its rows, command tag and SQLSTATE must be the same, and so must be which session waits for which. At points that the seed chooses
both servers are killed or restarted (`servers`), or our pageserver is. At the end the dumps must be the same, and our indexes and tables sound (`verdict`).

What makes the comparison possible: one statement runs at a time, unless it waits for a lock; then the sessions that hold it end their transactions.
No statement's result may depend on where rows lie on the disk, because free space maps, which are hints, survive a crash differently: rows are
compared as multisets unless ordered, columns that several rows change at once are never unique, sequences are never drawn from in the order of a scan.
Before a kill both servers flush their WAL, so that the same sequence values are lost. SERIALIZABLE is left out: what it refuses depends on plans.
"""
