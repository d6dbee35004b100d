"""Time limits of the provider's idempotency keys: how long we repeat a POST, and when the answer "not found" proves
that no POST arrived.
"""

from datetime import timedelta

# The provider retains idempotency keys for at least 24 h. The last POST with a key begins at least 4 h earlier, so that
# no POST is still on its way when the provider forgets the key.
POST_WINDOW = timedelta(hours=20)
# When this time has passed since the first POST, the last POST began at least 4 h ago and can no longer arrive at the
# provider. Only then does the answer "not found" prove that no POST arrived.
PROOF_AFTER = timedelta(hours=24)
