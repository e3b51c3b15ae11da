"""Every test runs with the environment that the product sets, before anything imports Paddle."""

from app import environment

environment.prepare()
