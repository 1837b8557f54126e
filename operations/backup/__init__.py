"""What a stack and its hosts cannot get back from anywhere else, encrypted with age, and back again.

`take` makes a backup, `restore` puts it back; `archive` is what one consists of, `places` where it is kept.
"""
