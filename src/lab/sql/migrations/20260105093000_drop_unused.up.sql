-- Nobody reads these any more. One of them is NOT NULL without a default, and is filled by a function alone.
CREATE OR REPLACE FUNCTION open_ticket(customer bigint, about text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    ticket bigint;
BEGIN
    INSERT INTO support_tickets (customer_id, subject) VALUES (customer, about) RETURNING id INTO ticket;
    RETURN ticket;
END $$;

ALTER TABLE support_tickets DROP COLUMN channel;
ALTER TABLE customers DROP COLUMN legacy_code;
