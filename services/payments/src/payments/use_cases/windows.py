"""Time limits of the provider's idempotency keys: until when we post, and when "not found" is a proof."""

from datetime import timedelta

# The provider retains idempotency keys for at least 24 h. The last POST with a key begins 4 h before that, so that no
# POST is still on its way when the provider forgets the key.
POST_WINDOW = timedelta(hours=20)
# After this time no POST with the key can arrive any more. Only then does "not found" prove that none ever arrived.
PROOF_AFTER = timedelta(hours=24)
