"""Paths of metering."""

from django.urls import path

from metering import rollup_views, views

urlpatterns = [
    path("v1/usage", views.UsageList.as_view(), name="usage"),
    path("v1/usage/<str:record_id>", views.UsageDetail.as_view(), name="usage-record"),
    path("v1/organization/usage/completions", rollup_views.CompletionsUsage.as_view(), name="completions-usage"),
    path("v1/organization/costs", rollup_views.Costs.as_view(), name="costs"),
    path("v1/models", views.ModelList.as_view(), name="models"),
    path("models", views.BareModelList.as_view(), name="models-bare"),
    # Before the single model, which would take "catalog" for an id.
    path("v1/models/catalog", views.Catalog.as_view(), name="catalog"),
    path("v1/models/<path:model>", views.ModelDetail.as_view(), name="model"),
]
