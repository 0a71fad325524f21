() => {
  // What the page's scripts save in the browser; every other script is given it.
  const download = (text, type, name) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], {type}));
    link.download = name;
    link.click();
    // The browser reads it a little later.
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  const cell = (value) => {
    const text = String(value);
    // A leading =, @ or tab, or a sign before what is no number, would be a formula in a spreadsheet.
    const plain = /^[=@\t]/.test(text) || (/^[+-]/.test(text) && isNaN(text)) ? `'${text}` : text;
    return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const csv = (rows) => rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
  return {download, csv};
}
