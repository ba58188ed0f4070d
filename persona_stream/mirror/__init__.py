"""The Redis mirror: what the tables hold of users and items, as hashes for other services. See docs/redis.md."""
