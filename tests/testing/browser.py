"""A headless Chromium, driven through its debugging pipe. No extra packages.

    with browser.start() as chromium:
      page = chromium.open(path, width=390, dark=True)
      page.run('document.title')

The DevTools protocol: messages are JSON and end with a NUL; the browser reads
them from descriptor 3 and writes to 4.
"""

import base64
import contextlib
import fcntl
import io
import json
import os
import pathlib
import select
import shutil
import signal
import time

from matplotlib import image

NAMES = (
  'chromium-headless-shell',
  'chromium',
  'chromium-browser',
  'google-chrome',
  'google-chrome-stable',
)
_SECONDS = 120  # for one answer; a busy machine is slow
_FLAGS = (
  '--headless',
  '--remote-debugging-pipe',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--disable-extensions',
  '--disable-background-networking',
  '--no-first-run',
  '--hide-scrollbars',
  '--force-color-profile=srgb',
)


def find() -> str | None:
  """Path of a browser on the PATH."""
  return next(filter(None, map(shutil.which, NAMES)), None)


def why_missing() -> str:
  """What a skipped test says; `.ci/run` adds why it could install none."""
  note = os.environ.get('CALM_BROWSER_NOTE', '')
  return (
    f'no browser is installed (looked for {", ".join(NAMES)}); on Debian:'
    f' apt-get install chromium-headless-shell. {note}'.strip()
  )


@contextlib.contextmanager
def start(profile: pathlib.Path):
  """Runs a browser while the block lasts; `profile` is an empty folder."""
  chromium = _Chromium(find(), profile)
  try:
    yield chromium
  finally:
    chromium.close()


class _Chromium:
  """The browser process and its pipe."""

  def __init__(self, path, profile):
    to_browser, self._write_to = _pipe()
    self._read_from, from_browser = _pipe()
    flags = [*_FLAGS, f'--user-data-dir={profile}']
    if os.geteuid() == 0:  # Chromium refuses its sandbox to root.
      flags.append('--no-sandbox')
    self._pid = os.posix_spawn(
      path,
      [path, *flags],
      os.environ,
      setpgroup=0,  # Its helpers end with it.
      file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, to_browser, 3),
        (os.POSIX_SPAWN_DUP2, from_browser, 4),
      ],
    )
    os.close(to_browser)
    os.close(from_browser)
    self._number, self._buffer = 0, b''
    self.events = []

  def close(self):
    os.killpg(self._pid, signal.SIGKILL)
    os.waitpid(self._pid, 0)
    os.close(self._write_to)
    os.close(self._read_from)

  def open(self, path, *, width=1280, height=900, dark=False, scripts=True):
    """Opens a file in a new tab of that size and colour scheme."""
    target = self.call('Target.createTarget', {'url': 'about:blank'})
    attached = self.call(
      'Target.attachToTarget',
      {'targetId': target['targetId'], 'flatten': True},
    )
    page = _Page(self, attached['sessionId'])
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      page.call(f'{domain}.enable')
    page.call(
      'Emulation.setDeviceMetricsOverride',
      {
        'width': width,
        'height': height,
        'deviceScaleFactor': 1,
        'mobile': width < 600,
      },
    )
    scheme = {
      'name': 'prefers-color-scheme',
      'value': 'dark' if dark else 'light',
    }
    page.call('Emulation.setEmulatedMedia', {'features': [scheme]})
    page.call('Emulation.setScriptExecutionDisabled', {'value': not scripts})
    page.call('Page.navigate', {'url': pathlib.Path(path).resolve().as_uri()})
    page.wait_for('Page.loadEventFired')
    return page

  def call(self, method, parameters=None, session=None):
    self._number += 1
    message = {
      'id': self._number,
      'method': method,
      'params': parameters or {},
    }
    if session:
      message['sessionId'] = session
    os.write(self._write_to, json.dumps(message).encode() + b'\0')
    while True:
      answer = self.receive()
      if answer.get('id') == self._number:
        if 'error' in answer:
          raise RuntimeError(f'{method}: {answer["error"]}')
        return answer['result']
      self.events.append(answer)

  def receive(self):
    deadline = time.monotonic() + _SECONDS
    while b'\0' not in self._buffer:
      left = deadline - time.monotonic()
      if left <= 0 or not select.select([self._read_from], [], [], left)[0]:
        raise TimeoutError('The browser does not answer.')
      chunk = os.read(self._read_from, 1 << 20)
      if not chunk:
        raise RuntimeError('The browser has gone.')
      self._buffer += chunk
    text, _, self._buffer = self._buffer.partition(b'\0')
    return json.loads(text)


class _Page:
  """One tab."""

  def __init__(self, chromium, session):
    self._chromium, self._session = chromium, session

  def call(self, method, parameters=None):
    return self._chromium.call(method, parameters, self._session)

  def wait_for(self, method):
    while not self._of(method):
      self._chromium.events.append(self._chromium.receive())

  def run(self, expression):
    """The value of a JavaScript expression."""
    answer = self.call(
      'Runtime.evaluate',
      {
        'expression': expression,
        'returnByValue': True,
        'awaitPromise': True,
        # A page's policy may forbid eval; the debugger is not the page.
        'allowUnsafeEvalBlockedByCSP': True,
      },
    )
    if 'exceptionDetails' in answer:
      raise RuntimeError(str(answer['exceptionDetails']))
    return answer['result'].get('value')

  def complaints(self):
    """Everything in the console: messages, exceptions, refusals."""
    self.run('0')  # What came before it has arrived now.
    said = [x['params'] for x in self._of('Runtime.consoleAPICalled')]
    thrown = [x['params'] for x in self._of('Runtime.exceptionThrown')]
    logged = [x['params']['entry'] for x in self._of('Log.entryAdded')]
    return [*said, *thrown, *logged]

  def requests(self):
    """Addresses of everything that was loaded, or was to be."""
    return [
      x['params']['request']['url']
      for x in self._of('Network.requestWillBeSent')
    ]

  def screenshot(self, path=None, whole=False):
    """[height, width, 3] in [0, 1]; also written to `path`."""
    answer = self.call(
      'Page.captureScreenshot',
      {'format': 'png', 'captureBeyondViewport': whole},
    )
    png = base64.b64decode(answer['data'])
    if path is not None:
      pathlib.Path(path).write_bytes(png)
    return image.imread(io.BytesIO(png), format='png')[..., :3]

  def _of(self, method):
    return [
      event
      for event in self._chromium.events
      if event.get('method') == method
      and event.get('sessionId') == self._session
    ]


def _pipe():
  """A pipe with descriptors above 9, so that 3 and 4 stay free."""
  high = []
  for descriptor in os.pipe():
    high.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10))
    os.close(descriptor)
  return high
