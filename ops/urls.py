"""Paths of the machinery."""

from django.urls import path

from ops import webhook_views as views

_ONE = "v1/webhook_endpoints/<str:endpoint_id>"

urlpatterns = [
    path("v1/webhook_endpoints", views.Endpoints.as_view(), name="webhook-endpoints"),
    path(_ONE, views.Endpoint.as_view(), name="webhook-endpoint"),
    path(f"{_ONE}/rotate_secret", views.SecretRotation.as_view(), name="webhook-endpoint-rotate-secret"),
    path(f"{_ONE}/test", views.Test.as_view(), name="webhook-endpoint-test"),
    path(f"{_ONE}/deliveries", views.Deliveries.as_view(), name="webhook-deliveries"),
    path(
        f"{_ONE}/deliveries/<str:delivery_id>/redeliver", views.Redelivery.as_view(), name="webhook-delivery-redeliver"
    ),
]
