"""The judge: asks every database, the provider's ledger and the mailbox whether the invariants of the design hold.

It imports nothing of the services or the chassis, so that no mistake of theirs can hide in it, and reads only:
`world` is what there is to know, `observing` fetches it, `quiet` waits for it to stand still, `invariants` judges it,
`report` says so.
"""
