-- SPDX-License-Identifier: MIT
-- One batch is one INSERT into this view, hence one statement and one transaction, and the child runs no Python per
-- row. messages, recipients, settles (with their records) are JSON arrays of rows; octets: prefixes and contents end to
-- end, cut by offset and length; acceptances: records of new messages, abouts: what finds these. What most batches have nothing of is {}, and has triggers of its own, because looking
-- in vain for each part of it costs 2 to 3 us: debts: {"c": to clear, "l": records of that}; parameters: what few
-- messages ("m"), recipients ("r"; "p" from another node) and settlements ("s") carry (as columns of every row they cost
-- 3 us a message);
-- extras: {"w": domains to release, "n": notes, "r": records of no message, "d": damaged recipients}. Rows: batch.py.
-- Reports come before settlements: what is settled in the same batch counts as settled after they were filed.
-- jsonb_each, not json_each: that renders each row as text only to parse it again (43 us a message instead of 25).
-- {day} and {release_rows} are filled in by child.py, which makes the triggers anew when the day of the records changes.

CREATE TEMP TABLE IF NOT EXISTS settled (
    message INTEGER, n INTEGER, attempts INTEGER, state TEXT, due REAL, last_reply TEXT, status TEXT, why TEXT,
    host TEXT, owed_at REAL, awaits_host INTEGER, seq INTEGER, at REAL, record TEXT
);
CREATE TEMP TABLE IF NOT EXISTS gone (key INTEGER, tag INTEGER);
CREATE TEMP TABLE IF NOT EXISTS released (message INTEGER, n INTEGER, due REAL);
CREATE TEMP TABLE IF NOT EXISTS paid (report INTEGER PRIMARY KEY);
CREATE TEMP VIEW IF NOT EXISTS debts (debts) AS SELECT 1;
CREATE TEMP VIEW IF NOT EXISTS parameters (parameters) AS SELECT 1;
CREATE TEMP VIEW IF NOT EXISTS extras (extras, octets) AS SELECT 1, 2;
CREATE TEMP VIEW IF NOT EXISTS batch (
    messages, recipients, octets, settles, debts, parameters, extras, highest, acceptances, abouts
) AS SELECT 1, 2, 3, 4, 5, 6, 7, 8, 9, 10;

DROP TRIGGER IF EXISTS apply_batch;
CREATE TEMP TRIGGER apply_batch INSTEAD OF INSERT ON batch BEGIN

    INSERT INTO debts SELECT NEW.debts WHERE NEW.debts <> '{}';

    -- Its acceptance, and by what it is found, of a message that is new: before it is there. Apart from the messages,
    -- which are parsed by each statement that reads them.
    INSERT OR IGNORE INTO record_{day}
    SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3
    FROM jsonb_each(NEW.acceptances)
    WHERE NOT EXISTS (SELECT 1 FROM message WHERE key = value ->> 1)
        AND (value ->> 4 IS NULL OR EXISTS (SELECT 1 FROM paid WHERE report = value ->> 4));
    INSERT OR IGNORE INTO about_{day}
    SELECT value ->> 0, value ->> 1
    FROM jsonb_each(NEW.abouts)
    WHERE NOT EXISTS (SELECT 1 FROM message WHERE key = value ->> 1)
        AND (value ->> 2 IS NULL OR EXISTS (SELECT 1 FROM paid WHERE report = value ->> 2));

    -- An add that is repeated after an error finds its message and changes nothing. A report (the last field of its
    -- rows is its number in "c") is filed only if it pays its debts.
    INSERT INTO recipient (message, n, address, domain, due, checksum)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
    FROM jsonb_each(NEW.recipients)
    WHERE NOT EXISTS (SELECT 1 FROM message WHERE key = value ->> 0)
        AND (value ->> 6 IS NULL OR EXISTS (SELECT 1 FROM paid WHERE report = value ->> 6));

    -- The same key with another tag is another message: NULL breaks NOT NULL, so that nothing is lost in silence.
    INSERT INTO message (
        key, tag, received_at, reverse_path, body, smtputf8, client, sender, octets, in_file, prefix, checksum,
        recipients)
    SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 11 IS NULL, substr(NEW.octets, (value ->> 9) + 1, value ->> 10), value ->> 12,
        value ->> 13
    FROM jsonb_each(NEW.messages)
    WHERE value ->> 14 IS NULL OR EXISTS (SELECT 1 FROM paid WHERE report = value ->> 14)
    ON CONFLICT (key) DO UPDATE SET tag = CASE WHEN tag = excluded.tag THEN tag END;

    INSERT OR IGNORE INTO content
    SELECT value ->> 0, substr(NEW.octets, (value ->> 11) + 1, value ->> 8)
    FROM jsonb_each(NEW.messages)
    WHERE value ->> 11 IS NOT NULL AND EXISTS (SELECT 1 FROM message WHERE key = value ->> 0);

    -- Only what still waits for this very attempt: that is what makes repeating a settlement harmless.
    INSERT INTO settled
    SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value -> 13
    FROM jsonb_each(NEW.settles) CROSS JOIN recipient AS r
    WHERE r.message = value ->> 0 AND r.n = value ->> 1 AND r.state IN ('deferred', 'held')
        AND r.attempts BETWEEN (value ->> 2) - 1 AND value ->> 2;

    INSERT OR IGNORE INTO record_{day} SELECT seq, message, at, record FROM settled WHERE n IS NOT NULL;

    DELETE FROM recipient WHERE (message, n) IN (
        SELECT message, n FROM settled WHERE owed_at IS NULL AND state NOT IN ('deferred', 'held'));

    UPDATE recipient
    SET state = s.state, due = s.due, attempts = s.attempts, last_reply = s.last_reply, status = s.status,
        why = s.why, host = s.host, owed_at = coalesce(s.owed_at, recipient.owed_at),
        awaits_host = s.awaits_host
    FROM settled AS s
    WHERE (s.owed_at IS NOT NULL OR s.state IN ('deferred', 'held'))
        AND recipient.message = s.message AND recipient.n = s.n;

    INSERT INTO parameters SELECT NEW.parameters WHERE NEW.parameters <> '{}';
    INSERT INTO extras SELECT NEW.extras, NEW.octets WHERE NEW.extras <> '{}';

    INSERT INTO gone
    SELECT key, tag FROM message
    WHERE in_file AND key IN (SELECT message FROM settled)
        AND NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.message = message.key);
    DELETE FROM content
    WHERE key IN (SELECT message FROM settled)
        AND NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.message = content.key);
    DELETE FROM message
    WHERE key IN (SELECT message FROM settled)
        AND NOT EXISTS (SELECT 1 FROM recipient AS r WHERE r.message = message.key);
    DELETE FROM settled;

    UPDATE highest SET number = NEW.highest WHERE number < NEW.highest;
END;

-- A report pays its debts only if each of them is the one it tells of: a recipient that ended meanwhile, or that is
-- gone, makes all of it untrue. "c": report, message, n, state ('' for one that goes on).
DROP TRIGGER IF EXISTS pay_debts;
CREATE TEMP TRIGGER pay_debts INSTEAD OF INSERT ON debts BEGIN

    DELETE FROM paid;
    INSERT INTO paid
    SELECT value ->> 0
    FROM jsonb_each(NEW.debts, '$.c') LEFT JOIN recipient AS r
        ON r.message = value ->> 1 AND r.n = value ->> 2 AND r.owed_at IS NOT NULL
        AND iif(r.state IN ('deferred', 'held'), '', r.state) = value ->> 3
    GROUP BY value ->> 0 HAVING count(r.n) = count(*);

    INSERT OR IGNORE INTO record_{day}
    SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3
    FROM jsonb_each(NEW.debts, '$.l')
    WHERE EXISTS (SELECT 1 FROM paid WHERE report = value ->> 4);

    INSERT INTO settled (message) SELECT value ->> 1 FROM jsonb_each(NEW.debts, '$.c');
    DELETE FROM recipient
    WHERE state NOT IN ('deferred', 'held') AND (message, n) IN (
        SELECT value ->> 1, value ->> 2 FROM jsonb_each(NEW.debts, '$.c') JOIN paid ON report = value ->> 0);
    UPDATE recipient SET owed_at = NULL
    WHERE (message, n) IN (
        SELECT value ->> 1, value ->> 2 FROM jsonb_each(NEW.debts, '$.c') JOIN paid ON report = value ->> 0);
END;

-- Set apart from their rows. What an add repeats is there already, or gone; of settlements only those that were applied.
DROP TRIGGER IF EXISTS apply_parameters;
CREATE TEMP TRIGGER apply_parameters INSTEAD OF INSERT ON parameters BEGIN

    UPDATE message SET ret = value ->> 1, envid = value ->> 2, tls = value ->> 3
    FROM jsonb_each(NEW.parameters, '$.m')
    WHERE message.key = value ->> 0;

    UPDATE recipient SET notify = value ->> 2, orcpt = value ->> 3
    FROM jsonb_each(NEW.parameters, '$.r')
    WHERE recipient.message = value ->> 0 AND recipient.n = value ->> 1;

    -- Once only: a recipient that has been attempted here has come further than where it began.
    UPDATE recipient
    SET state = value ->> 2, due = value ->> 3, attempts = value ->> 4, last_reply = value ->> 5, status = value ->> 6,
        why = value ->> 7, host = value ->> 8, delay_told = value ->> 9
    FROM jsonb_each(NEW.parameters, '$.p')
    WHERE recipient.message = value ->> 0 AND recipient.n = value ->> 1 AND recipient.attempts = 0;

    -- Sent another way: what is filed under another domain has another checksum; what is damaged keeps a wrong one.
    UPDATE recipient
    SET domain = value ->> 2,
        checksum = iif(
            recipient.checksum IS checksum_of_recipient(
                (SELECT m.checksum FROM message AS m WHERE m.key = recipient.message), n, address, domain, notify,
                orcpt),
            checksum_of_recipient(
                (SELECT m.checksum FROM message AS m WHERE m.key = recipient.message), n, address, value ->> 2, notify,
                orcpt),
            recipient.checksum)
    FROM jsonb_each(NEW.parameters, '$.v')
    WHERE recipient.message = value ->> 0 AND recipient.n = value ->> 1
        AND (+value ->> 0, +value ->> 1) IN (SELECT message, n FROM settled);

    -- +value: a plain one would have this search for all that was settled, and scan "s" for each.
    UPDATE recipient SET dsn = value ->> 2, delay_told = max(delay_told, value ->> 3)
    FROM jsonb_each(NEW.parameters, '$.s')
    WHERE recipient.message = value ->> 0 AND recipient.n = value ->> 1
        AND (+value ->> 0, +value ->> 1) IN (SELECT message, n FROM settled);
END;

DROP TRIGGER IF EXISTS apply_extras;
CREATE TEMP TRIGGER apply_extras INSTEAD OF INSERT ON extras BEGIN

    -- After the settlements of the same batch: what they defer for want of a host is not overlooked.
    INSERT INTO released
    SELECT r.message, r.n, value ->> 1
    FROM jsonb_each(NEW.extras, '$.w') CROSS JOIN recipient AS r INDEXED BY recipient_awaiting
    WHERE r.awaits_host = 1 AND r.state = 'deferred' AND r.domain = value ->> 0 AND r.due > value ->> 1
    LIMIT {release_rows};
    UPDATE recipient SET due = released.due, awaits_host = 0
    FROM released
    WHERE recipient.message = released.message AND recipient.n = released.n;

    -- One that has ended and owes a report goes: nobody can write that. The last statements of apply_batch see to a
    -- message that nobody is left of.
    UPDATE recipient SET state = 'held', due = value ->> 2, why = value ->> 3, owed_at = NULL, awaits_host = 0
    FROM jsonb_each(NEW.extras, '$.d')
    WHERE recipient.message = value ->> 0 AND recipient.n = value ->> 1 AND recipient.state IN ('deferred', 'held');
    DELETE FROM recipient
    WHERE (message, n) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_each(NEW.extras, '$.d'))
        AND (state NOT IN ('deferred', 'held') OR NOT EXISTS (SELECT 1 FROM message WHERE key = recipient.message));
    INSERT INTO settled (message) SELECT value ->> 0 FROM jsonb_each(NEW.extras, '$.d');

    DELETE FROM note WHERE name IN (SELECT value ->> 0 FROM jsonb_each(NEW.extras, '$.n') WHERE value ->> 2 = 0);
    INSERT OR REPLACE INTO note
    SELECT value ->> 0, substr(NEW.octets, (value ->> 1) + 1, value ->> 2)
    FROM jsonb_each(NEW.extras, '$.n')
    WHERE value ->> 2 > 0;
    -- A record entered again is passed over, one without a time is not: whoever saves learns of it.
    INSERT INTO record_{day}
    SELECT value ->> 0, 0, value ->> 1, value -> 2 FROM jsonb_each(NEW.extras, '$.r') WHERE true
    ON CONFLICT (seq) DO NOTHING;
END;
