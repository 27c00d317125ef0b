"""Paths of the door."""

from django.urls import path

from gateway import views

urlpatterns = [
    path("v1/events", views.Events.as_view(), name="events"),
]
