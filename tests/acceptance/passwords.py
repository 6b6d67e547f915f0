# SPDX-License-Identifier: MIT
"""The password of the tests' users and its hash, as cheap as the users file allows."""

import argon2

PASSWORD = b"secret"
HASH = argon2.PasswordHasher(time_cost=1, memory_cost=7168, parallelism=1).hash(PASSWORD)
