"""Browsers look around; abusers are one client that asks again and again, whatever it is told."""

from http import HTTPStatus

from users.client import REFUSALS, Client, body_of, refuse

ABUSE = " by an abuser"
"""What their routes' names have in the table."""


class Browser(Client):
    def run_errand(self) -> None:
        self.list_products()
        self.list_orders()


class Abuser(Client):
    is_abuser = True

    def run_errand(self) -> None:
        """One request, and no waiting: the next abuser is on its way."""
        with self.client.request(
            "GET", "/v1/orders?limit=20", name=f"/v1/orders{ABUSE}", catch_response=True, allow_redirects=False
        ) as answer:
            self.count_from_the_moment_meant(answer)
            if answer.status_code in REFUSALS:
                refuse(answer)
            else:
                body_of(answer, (HTTPStatus.OK,))
