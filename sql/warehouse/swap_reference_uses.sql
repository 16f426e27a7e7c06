-- Which versions the rebuild looked its records up in: those that the live output had used, where it had.
UPDATE highwater.reference_uses SET output = $2 WHERE topic = $1 AND output = $3
