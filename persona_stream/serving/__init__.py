"""Serving: replicas of the tables, the ranking engine on top of them, and the HTTP routes in front."""
