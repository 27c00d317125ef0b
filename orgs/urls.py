"""Paths of who."""

from django.urls import path

from orgs import views

urlpatterns = [
    path("v1/keys", views.Keys.as_view(), name="keys"),
    path("v1/keys/<str:key_id>", views.Key.as_view(), name="key"),
    path("v1/keys/<str:key_id>/rotate", views.Rotation.as_view(), name="key-rotate"),
]
