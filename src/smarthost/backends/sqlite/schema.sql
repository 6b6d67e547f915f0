-- SPDX-License-Identifier: MIT
-- The queue, version 4 (database.MIGRATIONS leads there from older ones). One database, one writer (child.py); operators may read it, nobody else may write.
-- Integer keys are the upper 63 bits of message ids (mail.identity); `tag` is the rest of the id.
-- Times are wall seconds since 1970. No foreign keys: the only writer is the trigger of batch.sql, which inserts a
-- message with its recipients and content in one statement and deletes them together; checking that again would cost
-- an index look-up for each row.

CREATE TABLE migration (version INTEGER PRIMARY KEY, what TEXT NOT NULL) STRICT;
INSERT INTO migration VALUES (4, 'made new');

CREATE TABLE message (
    key INTEGER PRIMARY KEY,
    tag INTEGER NOT NULL,
    received_at REAL NOT NULL,
    reverse_path TEXT NOT NULL,         -- '' is the null path <>
    body TEXT NOT NULL,                 -- 7BIT, 8BITMIME or BINARYMIME
    smtputf8 INTEGER NOT NULL,
    client TEXT NOT NULL,
    sender TEXT NOT NULL,
    octets INTEGER NOT NULL,            -- of the content, without the prefix
    in_file INTEGER NOT NULL,           -- 1: the content is content/<id>
    prefix BLOB NOT NULL,
    ret TEXT NOT NULL DEFAULT '',       -- FULL, HDRS or ''
    envid TEXT NOT NULL DEFAULT '',     -- in xtext
    tls TEXT NOT NULL DEFAULT '',       -- mail.envelope.SenderTls
    checksum INTEGER,                   -- checksums.of_message; NULL: not known
    recipients INTEGER                  -- how many it came with; NULL: not known
) STRICT;
CREATE INDEX message_received ON message (received_at);  -- sweep; and what count(*) reads instead of the prefixes

CREATE TABLE content (key INTEGER PRIMARY KEY, octets BLOB NOT NULL) STRICT;

CREATE TABLE recipient (
    message INTEGER NOT NULL,
    n INTEGER NOT NULL,                 -- position in the envelope
    address TEXT NOT NULL,
    domain TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'deferred',
    due REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_reply TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL DEFAULT '',
    why TEXT NOT NULL DEFAULT '',
    host TEXT NOT NULL DEFAULT '',
    owed_at REAL,                       -- a report is owed since then
    awaits_host INTEGER NOT NULL DEFAULT 0,  -- 1: deferred because no host could be asked
    notify INTEGER NOT NULL DEFAULT 0,  -- mail.envelope.Notify
    orcpt TEXT NOT NULL DEFAULT '',     -- as written, the address in xtext
    dsn TEXT NOT NULL DEFAULT '',       -- mail.result.DsnDuty: of which kind a report of success is; '' is relayed
    delay_told INTEGER NOT NULL DEFAULT 0,  -- 1: the matter of a delay report is settled
    checksum INTEGER,                   -- checksums.of_recipient; NULL: not known
    PRIMARY KEY (message, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX recipient_domain ON recipient (domain, due) WHERE state = 'deferred';
CREATE INDEX recipient_due ON recipient (due, domain) WHERE state = 'deferred';  -- costs 0.5 us of 33 a message
CREATE INDEX recipient_held ON recipient (due) WHERE state = 'held';  -- for count
CREATE INDEX recipient_owed ON recipient (owed_at, message) WHERE owed_at IS NOT NULL;
CREATE INDEX recipient_awaiting ON recipient (domain, due) WHERE awaits_host = 1 AND state = 'deferred';

CREATE TABLE note (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE highest (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT INTO highest VALUES (1, 0);

-- Records live in one table a day (database.record_tables): record_YYYYMMDD (seq, message, at, body), with an index of its
-- messages, of_YYYYMMDD; about_YYYYMMDD (number, message) finds acceptances by recipient and Message-ID
-- (checksums.about). A record of no message, about a host for instance, has message 0.
