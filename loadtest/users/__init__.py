"""Who asks: a class each, and a module for each kind."""

from users.browsers import Abuser, Browser
from users.buyers import BulkBuyer, Buyer, HastyBuyer
from users.webhooks import WebhookSender

USERS = (Abuser, Browser, BulkBuyer, Buyer, HastyBuyer, WebhookSender)
