"""How long the provider can be asked under one key, and when its silence about a reference is a proof."""

from datetime import timedelta

# The provider keeps idempotency keys for 24 h at least. 4 h before that the last POST with a key is begun, so that none
# is still on its way when the key is forgotten.
POST_WINDOW = timedelta(hours=20)
# When nothing of a key can arrive any more: only now does "not found" prove that it never did.
PROOF_AFTER = timedelta(hours=24)
