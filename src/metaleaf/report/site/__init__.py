"""The leaderboard: one HTML file with every suite's results, from records that may come from anyone.

`collect` reads what is there and leaves out what is damaged; `new_clients`, `target` and `new_environments` make a
table for each track; `runs` and `commands` say what made a row; `portraits` describes the data; `page` puts it
together.
"""
