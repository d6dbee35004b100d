"""The judge: asks every database, the provider's ledger and the mailbox whether the invariants of the design hold.

It imports nothing of the services or the chassis, so that no mistake of theirs can hide in it, and reads only.
`databases` and `outside` read, `filing` puts an order's complete file (`case`) together, `invariants` judge one file at
a time, `strays` finds what belongs to no order, `standing` says how the whole stands, `judging` waits for quiet and
goes through it all, `report` says what came of it.
"""
