"""Every path of the product."""

from django.contrib import admin
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularSwaggerSplitView

from core import views

urlpatterns = [
    path("healthz", views.Alive.as_view(), name="healthz"),
    path("readyz", views.Ready.as_view(), name="readyz"),
    path("v1/openapi.json", views.Document.as_view(), name="openapi"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="openapi"), name="docs"),
    path("admin/", admin.site.urls),
    path("", include("gateway.urls")),
    path("", include("billing.urls")),
    path("", include("metering.urls")),
    path("", include("ops.urls")),
    path("", include("orgs.urls")),
    path("", include("portal.urls")),
    re_path(r"^.*$", views.Nowhere.as_view(), name="nowhere"),
]
