-- SPDX-License-Identifier: MIT
-- One batch is one INSERT into this view, hence one statement and one transaction, and the child runs no Python per
-- row. messages, recipients, settles (with their records) are JSON arrays of rows; octets: prefixes and contents end to
-- end, cut by offset and length; extras: {"c": cleared debts, "l": their records, "w": domains to release, "n": notes,
-- "r": records of no message}. Rows: batch.py.
-- jsonb_each, not json_each: that renders each row as text only to parse it again (43 us a message instead of 25).
-- {day} and {release_rows} are filled in by child.py, which makes the triggers anew when the day of the records changes.

CREATE TEMP TABLE IF NOT EXISTS settled (
    message INTEGER, n INTEGER, attempts INTEGER, state TEXT, due REAL, last_reply TEXT, status TEXT, why TEXT,
    host TEXT, owed_at REAL, awaits_host INTEGER, seq INTEGER, at REAL, record TEXT
);
CREATE TEMP TABLE IF NOT EXISTS gone (key INTEGER, tag INTEGER);
CREATE TEMP TABLE IF NOT EXISTS released (message INTEGER, n INTEGER, due REAL);
CREATE TEMP VIEW IF NOT EXISTS extras (extras, octets) AS SELECT 1, 2;
CREATE TEMP VIEW IF NOT EXISTS batch (messages, recipients, octets, settles, extras, highest) AS SELECT 1, 2, 3, 4, 5, 6;

DROP TRIGGER IF EXISTS apply_batch;
CREATE TEMP TRIGGER apply_batch INSTEAD OF INSERT ON batch BEGIN

    -- An add that is repeated after an error finds its message and changes nothing. A report (the last two
    -- fields of its rows name the message and recipient it is about) is filed only while the debt exists.
    INSERT INTO recipient (message, n, address, domain, due)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4
    FROM jsonb_each(NEW.recipients)
    WHERE NOT EXISTS (SELECT 1 FROM message WHERE key = value ->> 0)
        AND (value ->> 5 IS NULL OR EXISTS (
            SELECT 1 FROM recipient AS debt
            WHERE debt.message = value ->> 5 AND debt.n = value ->> 6 AND debt.owed_at IS NOT NULL));

    -- The same key with another tag is another message: NULL breaks NOT NULL, so that nothing is lost in silence.
    INSERT INTO message
    SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 11 IS NULL, substr(NEW.octets, (value ->> 9) + 1, value ->> 10)
    FROM jsonb_each(NEW.messages)
    WHERE value ->> 12 IS NULL OR EXISTS (
        SELECT 1 FROM recipient AS debt
        WHERE debt.message = value ->> 12 AND debt.n = value ->> 13 AND debt.owed_at IS NOT NULL)
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

    INSERT OR IGNORE INTO record_{day} SELECT seq, message, at, record FROM settled;

    DELETE FROM recipient WHERE (message, n) IN (
        SELECT message, n FROM settled WHERE owed_at IS NULL AND state NOT IN ('deferred', 'held'));

    UPDATE recipient
    SET state = s.state, due = s.due, attempts = s.attempts, last_reply = s.last_reply, status = s.status,
        why = s.why, host = s.host, owed_at = coalesce(s.owed_at, recipient.owed_at),
        awaits_host = s.awaits_host
    FROM settled AS s
    WHERE (s.owed_at IS NOT NULL OR s.state IN ('deferred', 'held'))
        AND recipient.message = s.message AND recipient.n = s.n;

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

-- What most batches have nothing of: apart, because looking in vain for each part of it costs 2 to 3 us.
DROP TRIGGER IF EXISTS apply_extras;
CREATE TEMP TRIGGER apply_extras INSTEAD OF INSERT ON extras BEGIN

    INSERT OR IGNORE INTO record_{day}
    SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3
    FROM jsonb_each(NEW.extras, '$.l')
    WHERE EXISTS (
        SELECT 1 FROM recipient AS debt
        WHERE debt.message = value ->> 1 AND debt.n = value ->> 4 AND debt.owed_at IS NOT NULL);

    INSERT INTO settled (message) SELECT value ->> 0 FROM jsonb_each(NEW.extras, '$.c');
    DELETE FROM recipient
    WHERE (message, n) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_each(NEW.extras, '$.c'))
        AND owed_at IS NOT NULL AND state NOT IN ('deferred', 'held');
    UPDATE recipient SET owed_at = NULL
    WHERE (message, n) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_each(NEW.extras, '$.c'));

    -- After the settlements of the same batch: what they defer for want of a host is not overlooked.
    INSERT INTO released
    SELECT r.message, r.n, value ->> 1
    FROM jsonb_each(NEW.extras, '$.w') CROSS JOIN recipient AS r INDEXED BY recipient_awaiting
    WHERE r.awaits_host = 1 AND r.state = 'deferred' AND r.domain = value ->> 0 AND r.due > value ->> 1
    LIMIT {release_rows};
    UPDATE recipient SET due = released.due, awaits_host = 0
    FROM released
    WHERE recipient.message = released.message AND recipient.n = released.n;

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
