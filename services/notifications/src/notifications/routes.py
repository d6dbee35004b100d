"""The public API of notifications."""

from typing import Annotated
from uuid import UUID

from chassis.app import Caller, rate_limited
from chassis.app.error_rendering import documented
from chassis.app.resources import ApiResources, resources
from fastapi import APIRouter, Depends, Query

from notifications import use_cases
from notifications.schemas import MailList

router = APIRouter(prefix="/v1", responses=documented())


Given = Annotated[ApiResources, Depends(resources)]


@router.get("/mails", dependencies=[rate_limited()])
async def list_mails(order_id: Annotated[UUID, Query()], caller: Caller, given: Given) -> MailList:
    """What the customer of one of the caller's orders was sent, and what is on its way."""
    async with given.database.read() as session:
        return await use_cases.list_mails(session, client_id=caller.id, order_id=order_id)
