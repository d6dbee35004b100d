"""Other people's systems, for running Holdfast without them: a payment provider and a mailbox.

They import nothing of the platform: what they know of it, they learn over HTTP and SMTP.
"""
