"""Other people's systems, for running Holdfast without them: a payment provider, a mailbox and a customer's
webhook endpoint.

They import nothing of the platform: what they know of it, they learn over HTTP and SMTP.
"""
