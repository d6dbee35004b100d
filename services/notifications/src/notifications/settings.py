"""The settings of the notifications service."""

from typing import ClassVar

from chassis.settings import Group, Port, Seconds, ServiceSettings
from pydantic import Field


class SmtpSettings(Group):
    host: str = "127.0.0.1"
    port: Port = 25
    sender: str = Field("orders@holdfast.example", description="The From address; its domain ends every Message-ID.")
    timeout: Seconds = Field(5.0, description="Seconds for one step with the mail server; a mail has four.")


class NotificationsSettings(ServiceSettings):
    service_name: ClassVar[str] = "notifications"

    smtp: SmtpSettings = SmtpSettings()
