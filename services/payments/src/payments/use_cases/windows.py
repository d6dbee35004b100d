"""Time limits of the provider's idempotency keys: how long we repeat a POST, and when "not found" proves that none
arrived.
"""

from datetime import timedelta

# The provider retains idempotency keys for at least 24 h. The last POST with a key begins 4 h before that, so that no
# POST is still on its way when the provider forgets the key.
POST_WINDOW = timedelta(hours=20)
# After this time no POST with the key can arrive at the provider. Only then does "not found" prove that no POST
# arrived.
PROOF_AFTER = timedelta(hours=24)
