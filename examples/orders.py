"""Makes a database with a table of 100,000 orders, for the job export-orders: orders.py FILE"""

import sqlite3
import sys

with sqlite3.connect(sys.argv[1]) as database:
    database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, total REAL)")
    orders = ((number, f"customer, no. {number % 977}", number / 4) for number in range(1, 100_001))
    database.executemany("INSERT INTO orders VALUES (?, ?, ?)", orders)
