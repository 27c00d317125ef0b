"""Paths of billing."""

from django.urls import path

from billing import views
from billing.metrics import Metrics

urlpatterns = [
    path("v1/wallet", views.Wallet.as_view(), name="wallet"),
    path("v1/wallet/transactions", views.Transactions.as_view(), name="wallet-transactions"),
    path("v1/credits", views.Credits.as_view(), name="credits"),
    path("v1/usage/<str:record_id>/explain", views.Explain.as_view(), name="usage-explanation"),
    path("v1/estimate", views.Estimate.as_view(), name="estimate"),
    path("v1/key", views.Key.as_view(), name="key"),
    path("metrics", Metrics.as_view(), name="metrics"),
    path("user/balance", views.Balance.as_view(), name="balance"),
]
