"""Customers' pages. Those of an organization are below its slug; ``portal.desk.page`` makes each of them."""

from django.urls import path

from portal import accounts, overview

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
]
