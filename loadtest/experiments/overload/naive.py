"""The door as most services have it: a request is accepted whenever it can be stored."""

from chassis.errors import ApiError


class OpenDoor:
    def refusal(self) -> ApiError | None:
        return None
