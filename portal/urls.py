"""Customers' pages. Those of an organization are below its slug; ``portal.desk.page`` makes each of them."""

from django.urls import path

from portal import accounts, budgets, keys, members, overview, webhooks

app_name = "portal"
urlpatterns = [
    path("", accounts.begin, name="begin"),
    path("portal/", accounts.begin, name="home"),
    path("portal/sign-in", accounts.sign_in, name="sign_in"),
    path("portal/sign-out", accounts.sign_out, name="sign_out"),
    path("portal/sign-up", accounts.sign_up, name="sign_up"),
    path("portal/forgotten", accounts.forgotten, name="forgotten"),
    path("portal/welcome/<str:token>", accounts.welcome, name="welcome"),
    path("portal/organizations", accounts.organizations_page, name="organizations"),
    path("portal/<slug:slug>/", overview.show, name="overview"),
    path("portal/<slug:slug>/keys", keys.show, name="keys"),
    path("portal/<slug:slug>/keys/new", keys.new, name="keys-new"),
    path("portal/<slug:slug>/keys/<str:key_id>", keys.one, name="keys-one"),
    path("portal/<slug:slug>/keys/<str:key_id>/rotate", keys.rotate, name="keys-rotate"),
    path("portal/<slug:slug>/keys/<str:key_id>/revoke", keys.revoke, name="keys-revoke"),
    path("portal/<slug:slug>/keys/<str:key_id>/delete", keys.delete, name="keys-delete"),
    path("portal/<slug:slug>/members", members.show, name="members"),
    path("portal/<slug:slug>/members/new", members.new, name="members-new"),
    path("portal/<slug:slug>/members/leave", members.leave, name="members-leave"),
    path("portal/<slug:slug>/members/history", members.history, name="members-history"),
    path("portal/<slug:slug>/members/projects", members.projects_page, name="members-projects"),
    path("portal/<slug:slug>/members/projects/<str:project_id>", members.project, name="members-project"),
    path("portal/<slug:slug>/members/<str:member_id>/role", members.role, name="members-role"),
    path("portal/<slug:slug>/members/<str:member_id>/remove", members.remove, name="members-remove"),
    path("portal/<slug:slug>/budgets", budgets.show, name="budgets"),
    path("portal/<slug:slug>/budgets/new", budgets.new, name="budgets-new"),
    path("portal/<slug:slug>/budgets/alerts", budgets.alerts, name="budgets-alerts"),
    path("portal/<slug:slug>/budgets/<str:budget_id>", budgets.one, name="budgets-one"),
    path("portal/<slug:slug>/budgets/<str:budget_id>/end", budgets.end, name="budgets-end"),
    path("portal/<slug:slug>/webhooks", webhooks.show, name="webhooks"),
    path("portal/<slug:slug>/webhooks/new", webhooks.new, name="webhooks-new"),
    path("portal/<slug:slug>/webhooks/<str:endpoint_id>", webhooks.one, name="webhooks-one"),
    path("portal/<slug:slug>/webhooks/<str:endpoint_id>/change", webhooks.change, name="webhooks-change"),
    path("portal/<slug:slug>/webhooks/<str:endpoint_id>/rotate", webhooks.rotate, name="webhooks-rotate"),
    path("portal/<slug:slug>/webhooks/<str:endpoint_id>/switch", webhooks.switch, name="webhooks-switch"),
    path("portal/<slug:slug>/webhooks/<str:endpoint_id>/delete", webhooks.delete, name="webhooks-delete"),
    path("portal/<slug:slug>/webhooks/<str:endpoint_id>/test", webhooks.test, name="webhooks-test"),
    path(
        "portal/<slug:slug>/webhooks/<str:endpoint_id>/<str:delivery_id>/again", webhooks.again, name="webhooks-again"
    ),
]
