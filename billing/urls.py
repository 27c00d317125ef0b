"""Paths of billing."""

from django.urls import path

from billing import invoice_views, payment_pages, payment_views, views
from billing.metrics import Metrics

urlpatterns = [
    path("v1/wallet", views.Wallet.as_view(), name="wallet"),
    path("v1/wallet/transactions", views.Transactions.as_view(), name="wallet-transactions"),
    path("v1/wallet/recharge", payment_views.WalletRecharge.as_view(), name="wallet-recharge"),
    path("v1/topups", payment_views.TopUps.as_view(), name="topups"),
    path("v1/topups/<str:topup_id>", payment_views.TopUpById.as_view(), name="topup"),
    path("v1/payment_methods", payment_views.Cards.as_view(), name="payment-methods"),
    path("v1/payment_methods/<str:payment_method_id>", payment_views.CardById.as_view(), name="payment-method"),
    path("v1/webhooks/stripe", payment_views.StripeWebhook.as_view(), name="stripe-webhook"),
    path("v1/credits", views.Credits.as_view(), name="credits"),
    path("v1/usage/<str:record_id>/explain", views.Explain.as_view(), name="usage-explanation"),
    path("v1/invoices", invoice_views.Invoices.as_view(), name="invoices"),
    path("v1/invoices/<str:invoice_id>", invoice_views.InvoiceDetail.as_view(), name="invoice"),
    path("v1/invoices/<str:invoice_id>/pdf", invoice_views.InvoicePdf.as_view(), name="invoice-pdf"),
    path("v1/invoices/<str:invoice_id>/pay", invoice_views.InvoicePayments.as_view(), name="invoice-pay"),
    path("v1/estimate", views.Estimate.as_view(), name="estimate"),
    path("v1/key", views.Key.as_view(), name="key"),
    path("metrics", Metrics.as_view(), name="metrics"),
    path("billing/cards", payment_pages.card, name="card-page"),
    path("billing/payments/<str:payment_id>", payment_pages.payment, name="payment-page"),
    path("user/balance", views.Balance.as_view(), name="balance"),
]
