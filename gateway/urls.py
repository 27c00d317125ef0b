"""Paths of the door."""

from django.urls import path

from gateway import views

urlpatterns = [
    path("v1/events", views.Events.as_view(), name="events"),
    path("v1/events/litellm", views.LiteLLMEvents.as_view(), name="events-litellm"),
    path("v1/authorizations", views.Authorizations.as_view(), name="authorizations"),
    path("v1/authorizations/<str:authorization_id>", views.Authorization.as_view(), name="authorization"),
    path("v1/authorizations/<str:authorization_id>/release", views.Release.as_view(), name="authorization-release"),
    path("v1/keys/verify", views.KeyCheck.as_view(), name="key-verify"),
    # An event's id may hold slashes.
    path("v1/events/<path:event_id>/void", views.Void.as_view(), name="event-void"),
]
