"""One page: the titles of the works, as the live-server examples read it."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from testdb_app.demo.models import Work


def titles(request: HttpRequest) -> HttpResponse:
    """Answer with a title a line."""
    return HttpResponse("\n".join(Work.objects.order_by("title").values_list("title", flat=True)), "text/plain")


urlpatterns = [path("works", titles)]
